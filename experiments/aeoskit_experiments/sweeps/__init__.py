"""Sweeps over many machines: each combination of values is a separate run, on any executor."""

from aeoskit_experiments.jobs import EXECUTORS as EXECUTORS
from aeoskit_experiments.jobs import Processes as Processes
from aeoskit_experiments.jobs import Submitted as Submitted
from aeoskit_experiments.jobs import parse_slurm as parse_slurm
from aeoskit_experiments.sweeps._record import Job as Job
from aeoskit_experiments.sweeps._record import Sweep as Sweep
from aeoskit_experiments.sweeps._record import create_sweep as create_sweep
from aeoskit_experiments.sweeps._record import read_sweep as read_sweep
from aeoskit_experiments.sweeps._sweep import SweepOutcome as SweepOutcome
from aeoskit_experiments.sweeps._sweep import resume_sweep as resume_sweep
from aeoskit_experiments.sweeps._sweep import sweep as sweep
from aeoskit_experiments.sweeps._sweep import sweep_status as sweep_status
from aeoskit_experiments.sweeps._sweep import sweep_summary as sweep_summary
