"""From annotations to losses, and from losses to a trained model."""
