"""What runs inside a TorchServe worker; travels whole inside every archive.

Data flows one way: request -> decode -> batch -> forward -> encode -> answer.
"""
