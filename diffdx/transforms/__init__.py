"""From decoded pixels to the network's coordinates and back; augmentation."""
