"""The ledger of claims: those of the literature, measured and judged by bounds fixed before."""

from aeoskit_experiments._renamed import renamed as _renamed
from aeoskit_experiments.ledger._bounds import Bounds as Bounds
from aeoskit_experiments.ledger._bounds import bounds_of as bounds_of
from aeoskit_experiments.ledger._bounds import mismatches as mismatches
from aeoskit_experiments.ledger._bounds import read_bounds as read_bounds
from aeoskit_experiments.ledger._claim import CLAIMS as CLAIMS
from aeoskit_experiments.ledger._claim import EXPERIMENTS as EXPERIMENTS
from aeoskit_experiments.ledger._claim import Claim as Claim
from aeoskit_experiments.ledger._claim import Measured as Measured
from aeoskit_experiments.ledger._claim import OutOfReach as OutOfReach
from aeoskit_experiments.ledger._claim import Refuted as Refuted
from aeoskit_experiments.ledger._claim import RunSpec as RunSpec
from aeoskit_experiments.ledger._claim import claim as claim
from aeoskit_experiments.ledger._evidence import Evidence as Evidence
from aeoskit_experiments.ledger._evidence import finite as finite
from aeoskit_experiments.ledger._evidence import share as share
from aeoskit_experiments.ledger._ledger import Ledger as Ledger
from aeoskit_experiments.ledger._ledger import LedgerRequest as LedgerRequest
from aeoskit_experiments.ledger._ledger import LedgerRun as LedgerRun
from aeoskit_experiments.ledger._ledger import Row as Row
from aeoskit_experiments.ledger._ledger import read_ledger as read_ledger
from aeoskit_experiments.ledger._plan import make_tasks as make_tasks
from aeoskit_experiments.ledger._reproduce import LedgerListener as LedgerListener
from aeoskit_experiments.ledger._reproduce import LedgerOutcome as LedgerOutcome
from aeoskit_experiments.ledger._reproduce import reproduce as reproduce
from aeoskit_experiments.ledger._words import bounds_words as bounds_words
from aeoskit_experiments.ledger._words import headline as headline
from aeoskit_experiments.ledger._words import number_words as number_words
from aeoskit_experiments.ledger._words import seconds_words as seconds_words
from aeoskit_experiments.ledger._words import spread_words as spread_words
from aeoskit_experiments.ledger._words import value_words as value_words

__getattr__ = _renamed(
    __name__,
    {
        "Work": "RunSpec",
        "WorkState": "LedgerRun",
        "Witness": "LedgerListener",
        "complaints": "mismatches",
    },
)
