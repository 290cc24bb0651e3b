"""Search spaces: weighted, typed grammars of cells, and sketches, read from text files."""

from search_spaces.errors import NoCellError as NoCellError
from search_spaces.errors import NotAMemberError as NotAMemberError
from search_spaces.errors import SpaceError as SpaceError
from search_spaces.errors import SpaceFileError as SpaceFileError
from search_spaces.errors import UnknownSpaceError as UnknownSpaceError
from search_spaces.grammar_space import GrammarSpace as GrammarSpace
from search_spaces.library import load_space as load_space
from search_spaces.library import read_space as read_space
from search_spaces.library import space_names as space_names
from search_spaces.library import space_text as space_text
from search_spaces.motifs import Motif as Motif
from search_spaces.relaxing import Relaxed as Relaxed
from search_spaces.rules import Limits as Limits
from search_spaces.sketch_space import SketchSpace as SketchSpace
from search_spaces.space import WAYS as WAYS
from search_spaces.space import Space as Space
from search_spaces.unrolling import unroll as unroll
from search_spaces.varied import Operator as Operator
from search_spaces.varied import Variation as Variation
from search_spaces.walking import Choice as Choice
from search_spaces.walking import Chooser as Chooser
