"""The automatic canary: it gives a new version more and more requests, or takes them away.

evidence   counts      pure: the statistical test, and what is counted
      └─ judging ─┘    pure: whether a step's traffic is enough, or proves that it is worse
            │
          states       pure: the states of a canary, and what is desired in each
            │
          runner       in the keeper: reads, judges, changes what is desired, stores
"""
