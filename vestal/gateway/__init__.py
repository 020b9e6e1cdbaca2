"""The gateway: Envoy, in front of TorchServe."""
