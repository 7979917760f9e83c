"""Image sets as arrays and their augmentation."""
