"""Networks: layers, presets and pretrained backbones."""
