"""The intermediate representation: cells as Programs, passes over them, and the rules of a legal one. No torch."""

from nas.ir.lowering import taps as taps
from nas.ir.passes import compile_program as compile_program
from nas.ir.passes import is_plain as is_plain
from nas.ir.passes import joins as joins
from nas.ir.passes import passes as passes
from nas.ir.passes import same_axes as same_axes
from nas.ir.passes import tree_parts as tree_parts
from nas.ir.program import IR_OPS as IR_OPS
from nas.ir.program import STACK as STACK
from nas.ir.program import STAGES as STAGES
from nas.ir.program import Array as Array
from nas.ir.program import Instr as Instr
from nas.ir.program import Map as Map
from nas.ir.program import Program as Program
from nas.ir.program import Region as Region
from nas.ir.program import Slot as Slot
from nas.ir.show import describe as describe
from nas.ir.show import show as show
from nas.ir.verify import RULES as RULES
from nas.ir.verify import Rule as Rule
from nas.ir.verify import verify as verify
