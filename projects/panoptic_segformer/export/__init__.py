"""The network as one file that runs elsewhere: torch.export and ONNX, checked against the model that it was made of."""
