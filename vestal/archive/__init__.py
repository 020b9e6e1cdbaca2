"""Archives: what TorchServe loads. Made whole (`pack`), run without a server (`run`)."""
