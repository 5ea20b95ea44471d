"""Whether what a model is measured on was among what its adapter was trained on."""
