"""From records to batches: order, reading ahead, bad samples, the cursor."""
