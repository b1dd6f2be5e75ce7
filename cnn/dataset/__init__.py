"""The dataset on disk: manifest, TFRecord shards, splits, and the loader that feeds training."""
