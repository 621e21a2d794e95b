"""What common corruptions of pictures (noise, blur, weather, digital) cost a model in panoptic quality."""
