from .cnn_explainer import CausalCNNExplainer as CausalCNNExplainer
