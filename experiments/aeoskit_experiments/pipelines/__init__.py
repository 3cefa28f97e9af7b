"""Experiments as data: stages, the pipelines that they compose, and their declarations."""

from aeoskit_experiments._errors import UserError as UserError
from aeoskit_experiments._renamed import renamed as _renamed
from aeoskit_experiments.pipelines._check import check_probe_batch as check_probe_batch
from aeoskit_experiments.pipelines._check import check_steps as check_steps
from aeoskit_experiments.pipelines._check import least_basis as least_basis
from aeoskit_experiments.pipelines._choice import Choice as Choice
from aeoskit_experiments.pipelines._devices import ask_for_devices as ask_for_devices
from aeoskit_experiments.pipelines._experiment import AnyTrack as AnyTrack
from aeoskit_experiments.pipelines._experiment import Branch as Branch
from aeoskit_experiments.pipelines._experiment import Experiment as Experiment
from aeoskit_experiments.pipelines._experiment import SweepAxis as SweepAxis
from aeoskit_experiments.pipelines._pipeline import Group as Group
from aeoskit_experiments.pipelines._pipeline import Pipeline as Pipeline
from aeoskit_experiments.pipelines._pipeline import pipe as pipe
from aeoskit_experiments.pipelines._pipeline import stored_pipeline as stored_pipeline
from aeoskit_experiments.pipelines._pipeline import with_place as with_place
from aeoskit_experiments.pipelines._registry import STAGES as STAGES
from aeoskit_experiments.pipelines._registry import StageKind as StageKind
from aeoskit_experiments.pipelines._registry import check_variant as check_variant
from aeoskit_experiments.pipelines._registry import describe as describe
from aeoskit_experiments.pipelines._registry import is_ours as is_ours
from aeoskit_experiments.pipelines._registry import is_own as is_own
from aeoskit_experiments.pipelines._registry import options_for as options_for
from aeoskit_experiments.pipelines._registry import stage_kind as stage_kind
from aeoskit_experiments.pipelines._registry import variants_of as variants_of
from aeoskit_experiments.pipelines._settings import Place as Place
from aeoskit_experiments.pipelines._settings import Plot as Plot
from aeoskit_experiments.pipelines._settings import Rewind as Rewind
from aeoskit_experiments.pipelines._settings import Store as Store
from aeoskit_experiments.pipelines._settings import Track as Track
from aeoskit_experiments.pipelines._settings import TrackError as TrackError
from aeoskit_experiments.pipelines._settings import TrackMultiplier as TrackMultiplier
from aeoskit_experiments.pipelines._settings import Train as Train
from aeoskit_experiments.pipelines._stage import Stage as Stage
from aeoskit_experiments.pipelines._stage import branch as branch
from aeoskit_experiments.pipelines._stage import data as data
from aeoskit_experiments.pipelines._stage import loss as loss
from aeoskit_experiments.pipelines._stage import make_stage as make_stage
from aeoskit_experiments.pipelines._stage import model as model
from aeoskit_experiments.pipelines._stage import optimizer as optimizer
from aeoskit_experiments.pipelines._stage import place as place
from aeoskit_experiments.pipelines._stage import plot as plot
from aeoskit_experiments.pipelines._stage import rewind as rewind
from aeoskit_experiments.pipelines._stage import store as store
from aeoskit_experiments.pipelines._stage import track as track
from aeoskit_experiments.pipelines._stage import train as train
from aeoskit_experiments.pipelines._text import stage_words as stage_words

_options = "aeoskit_experiments.options"
__getattr__ = _renamed(
    __name__,
    {
        "Option": f"{_options}.Option",
        "options_of": f"{_options}.options_of",
        "parse": f"{_options}.coerce",
        "summary_of": f"{_options}.summary_of",
    },
)
