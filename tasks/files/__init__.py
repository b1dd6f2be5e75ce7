"""Files of a source: listing, class folders, chunks and reading."""
