"""How much each nucleus drove a prediction, and whether that is true of the model."""
