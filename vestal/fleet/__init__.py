"""Keep the desired models running: serving.yaml, the plan, and the keeper that carries it out.

    serving.yaml -> desired.py ----+
                                   +-> plan.py -> steps -> executing -> TorchServe
    TorchServe -> actual.py -------+

Commands only change what is desired. The keeper, a part of `vestal serve`, registers, scales,
switches and removes versions. It compares desired with actual again and again, so that a crash at
any point is harmless. What other clients change at TorchServe becomes desired, too (adopting.py).
"""
