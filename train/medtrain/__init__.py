"""medtrain: train a medical image classifier on the very tensors that inference will see.

The command is `medtrain`; from Python use the modules: `medtrain.checkpoint.load_checkpoint`, `medtrain.recipe.load`.
"""
