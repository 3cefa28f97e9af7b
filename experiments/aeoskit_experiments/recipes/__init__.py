"""Named experiments: each a function with keyword options that returns a pipeline."""

from aeoskit_experiments.recipes._advance import advance as advance
from aeoskit_experiments.recipes._edges import adam_edge as adam_edge
from aeoskit_experiments.recipes._edges import gd_edge as gd_edge
from aeoskit_experiments.recipes._multiplier import multiplier_edge as multiplier_edge
from aeoskit_experiments.recipes._registry import RECIPES as RECIPES
from aeoskit_experiments.recipes._registry import find_recipe as find_recipe
from aeoskit_experiments.recipes._registry import make_recipe as make_recipe
from aeoskit_experiments.recipes._registry import recipe as recipe
from aeoskit_experiments.recipes._registry import recipe_options as recipe_options
from aeoskit_experiments.recipes._registry import recipe_summary as recipe_summary
from aeoskit_experiments.recipes._thresholds import threshold_table as threshold_table
