"""What is nobody else's business."""
