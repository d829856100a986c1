"""Chat template to token ids and label span: one place, for training and for evaluation."""
