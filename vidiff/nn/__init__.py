"""The networks: the factorised space-time U-Net, the autoencoder, the classifier, attention."""
