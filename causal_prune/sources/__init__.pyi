from .chosen_images import read_chosen as read_chosen
from .data import load_data as load_data
from .factories import anchored as anchored
from .fits import check_fits as check_fits
from .models import load_model as load_model
from .options import Source as Source
from .small_cnn import small_resnet as small_resnet
from .weights import load_weights as load_weights
