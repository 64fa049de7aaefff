"""`recall_inputs`: what recall heads are fed."""
