"""Files that hold samples: lists, addresses, TFRecord."""
