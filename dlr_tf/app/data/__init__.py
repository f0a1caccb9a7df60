"""Files give batches: images, folders, CSV files, splits, order, augmentation."""
