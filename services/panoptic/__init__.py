"""The expert that gives every pixel to one segment: YOLO26n-seg for things, the rest unlabelled."""
