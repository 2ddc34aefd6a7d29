"""All that the zoo keeps. Importing it registers the blueprints by which a log builds them again."""

from .species import Species
from .timm_species import TIMM
from .torch_species import TORCH
from .transformers_species import TRANSFORMERS

ZOO: dict[str, Species] = {species.name: species for species in (*TRANSFORMERS, *TIMM, *TORCH)}
