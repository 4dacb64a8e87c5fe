"""What can be cut together, who reads whom, what is frozen and why: found by labels, proved by trial cuts."""
