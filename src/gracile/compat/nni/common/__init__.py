"""What both generations of NNI's compression share."""
