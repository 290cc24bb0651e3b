"""Texts that are refused: for each message the texts that give it. A caret `^` (the first) marks the place."""

from __future__ import annotations

# Whole texts, as all are that have a `cell` in them; the others are bodies: `cell a { state h: vec; BODY; out h }`.
NO_CELL: dict[str, tuple[str, ...]] = {
    "the text is empty: a cell begins with": ("^", "^  \n", "# only a comment^"),
    "a cell begins with `cell NAME {`; received 'lstm'": ("^lstm { }", "# one\n^lstm a { out x }"),
    "a cell begins with `cell NAME {`; received '{'": ("^{ out x }",),
}

SYNTAX: dict[str, tuple[str, ...]] = {
    "expected a name": ("cell ^{ out x }", "cell a { state h: vec,^; out h }"),
    "the text ends too early: expected one of '(', '{'": ("cell a^",),
    "the text ends inside a block: a closing '}' is missing": (
        "cell a {^",
        "cell a { out x^",
        "cell a {\n  state h: vec\n  h' = x\n  out h^\n\n",
        "cell a { repeat 2 { out x }^",
    ),
    "there is no '{' to this '}'": ("cell a { out x } ^}", "cell a { out x }^}"),
    "one text holds one cell: a second one begins here": (
        "cell a { out x } ^cell b { out x }",
        "cell a { out x }\n\n^cell b { out x }",
    ),
    "a value is missing before ';'": ("h' = ^; u = x", "h' = x +^; u = x", "h' = -^; u = x"),
    "a value is missing before ')'": ("h' = lin(x,^)", "h' = lin(x, bias=no, ^)", "h' = (^)"),
    "a value is missing before ','": ("h' = lin(^, x)", "h' = lerp(x, ^, h)"),
    "a value is missing before '+'": ("h' = ^+ x", "h' = x + ^+ h"),
    "an operand is missing before '*' (a power is written with square(...))": (
        "h' = x + ^* h",
        "h' = h *^* 2",
    ),
    "a closing ')' is missing": ("h' = lin(x^; u = x", "h' = (h^; u = x", "h' = lin(x, bias=no^; u = x"),
    "a closing ')' or an operator is missing before 'out'": (
        "cell a {\n  state h: vec\n  h' = tanh(lin(x, h)\n  ^out h'\n}",
    ),
    "a closing ')' or an operator is missing before 'h'": ("h' = lin(x ^h)",),
    "there is no '(' to this ')'": ("h' = lin(x, h)^); u = x", "h' = h^)"),
    "statements are separated by a new line or ';', and operands by an operator; received 'lin'": (
        "h' = lin(x) ^lin(h)",
    ),
    "statements are separated by a new line or ';', and operands by an operator; received 'out'": (
        "cell a { state h: vec; h' = h ^out h }",
    ),
    "statements are separated by a new line or ';', and operands by an operator; received '.3'": (
        "h' = 1.2^.3 * h",
    ),
    "unexpected character '^': a power is written with square(...) or a product": ("h' = h ^^ 2",),
    "unexpected character '@': a matrix product is written lin(...)": ("h' = W ^@ h",),
    "unexpected character '[': the language has no indexing": ("h' = h^[0]",),
    "a weight is a number from 1e-30 to 1e+30; received [0]": ("h' = choice{ h ^[0] | x }",),
    "a weight is a number from 1e-30 to 1e+30; received [1e999]": ("h' = choice{ h ^[1e999] }",),
    "unexpected character '%': comments begin with '#'": ("h' = h ^% 2",),
    "unexpected character '!': comments begin with '#'": ("^! h' = h",),
    'unexpected character "\'": a state is declared without its prime': (
        "cell a { state h^': vec; h' = x; out h }",
    ),
    'unexpected character "\'": a prime follows the name of a state': ("h' = h'^' + x",),
    "unexpected character '\"'": ('h\' = ^"x"',),
    "unexpected character '\\x00'": ("h' = ^\x00",),
    "unexpected character 'é'": ("h' = ^é",),
    "an equation needs one '=' with a name before it": ("h =^= x", "out ^= h", "state ^= h"),
    "one '=' to an equation: conditions and assignments inside": ("h' = x ^= h",),
    "unexpected ';': expected ':'": ("cell a { state h^; h' = x; out h }",),
    "an initial value is a number, -inf, learned, or x; received foo": (
        "cell a { state h: vec = ^foo; h' = x; out h }",
    ),
    "an initial value is a number, -inf, learned, or x; received inf": (
        "cell a { state h: vec = ^inf; h' = x; out h }",
    ),
    "an initial value is a number, -inf, learned, or x; received -learned": (
        "cell a { state h: vec = ^-learned; h' = x; out h }",
    ),
    "a number must be finite; received 1e999": ("h' = ^1e999 * x",),
    f"a number must be finite; received {'9' * 48}...{'9' * 16}": (
        f"h' = ^{'9' * 5000} * x",
        f"h' = lin(x, rank=^{'9' * 5000})",
        f"repeat ^{'9' * 5000} {{ h' = x }}",
        f"depth ^{'9' * 5000} {{ h' = x }}",
        f"cell a {{ state h: vec = ^{'9' * 5000}; h' = x; out h }}",
    ),
    "options come after the operands": ("h' = lin(bias=no, ^x)", "h' = lin(x, bias=no, ^h, rank=2)"),
    "the option 'bias' is given twice": ("h' = lin(x, bias=no, ^bias=yes)",),
    "`state` stands at the top of a cell, not inside a block": ("repeat 2 { state ^c: vec; h' = h }",),
    "expected a number": ("repeat ^{ h' = h }", "depth ^until(h) { h' = h }"),
    "expected '('": ("depth 2 until ^{ h' = h }",),
}

TYPES: dict[str, tuple[str, ...]] = {
    "`lin` takes at least 1 operand(s); received 0": ("h' = ^lin()",),
    "`lerp` takes 3 operand(s); received 2": ("h' = ^lerp(x, h)",),
    "`tanh` takes 1 operand(s); received 2": ("h' = ^tanh(x, h)",),
    "`tanh` takes no type, as in `lin:key(...)`; received vec": ("h' = ^tanh:vec(x)",),
    "mem(n) has 1 <= n <= 4096; received mem(99999": (
        f"cell a {{ state h: vec, m: ^mem({'9' * 5000}); h' = lin(x, m); m' = m; out h' }}",
        f"h' = lin(lin:^mem({'9' * 5000})(x))",
    ),
    "uniform(a, b) has a <= b; received uniform(2, 1)": ("h' = lin(x, ^init=uniform(2, 1))",),
    "uniform(a, b) has a finite b - a; received uniform(-1e+308, 1e+308)": (
        "h' = lin(x, ^init=uniform(-1e308, 1e308))",
    ),
    "log_uniform(a, b) has 0 < a <= b; received log_uniform(-1, 1)": (
        "h' = lin(x, ^init=log_uniform(-1, 1))",
    ),
    "log_uniform(a, b) has 0 < a <= b; received": ("h' = lin(x, ^init=log_uniform(2, 1))",),
    "normal(sd) has sd >= 0; received normal(-1)": ("h' = lin(x, ^init=normal(-1))",),
    "mem(n) has 1 <= n <= 4096; received mem(0)": ("cell a { state m: ^mem(0); m' = m; out x }",),
    "`bias` is yes or no; received maybe": ("h' = lin(x, ^bias=maybe)",),
    "`blocks` is a whole number from 1 to 4096, or heads; received 0": ("h' = lin(x, ^blocks=0)",),
    "`rank` is a whole number from 1 to 4096; received 0.5": ("h' = lin(x, ^rank=0.5)",),
    "`k` is a whole number from 1 to 4096; received -1": ("h' = conv(x, ^k=-1)",),
    "`share` is a name; received 3": ("h' = lin(x, ^share=3)",),
    "`init` is a number, zeros, ones, uniform(a, b)": (
        "h' = lin(x, ^init=foo)",
        "h' = lin(x, ^init=uniform(1))",
        "h' = lin(x, ^init=yes)",
        "h' = lin(x, ^init=fourier)",
        "h' = lin(x, ^init=permutation(2))",
    ),
    "lin takes rank= or blocks=, not both": ("h' = ^lin(x, rank=2, blocks=2)",),
    "transpose=yes goes with share=NAME, bias=no and one operand": (
        "h' = ^lin(h, transpose=yes)",
        "h' = ^lin(h, share=w, transpose=yes)",
        "h' = ^lin(h, x, share=w, bias=no, transpose=yes)",
    ),
    "share=w names weights of one `init` and one `fixed`": (
        "u = lin(x, share=w, init=zeros); h' = u * ^lin(x, share=w, init=ones)",
        "u = lin(x, share=w); h' = u * ^lin(x, share=w, fixed=yes)",
    ),
    "share=w names weights of one shape; received w0 [H, D], b [H] and w0 [H, H], b [H]": (
        "h' = lin(x, share=w) + ^lin(h, share=w)",
    ),
    "lin(...) maps values, and a bare number is a bias": ("h' = ^lin(2)",),
    "lin of a complex operand is complex: write re(lin:cvec(...)); received vec": (
        "h' = ^lin(complex(h, h))",
    ),
    "operands must be real (use re(...) or abs(...)); received cvec": ("h' = re(^tanh(cis(h)))",),
    "the operand must be cvec or cmat; received vec": ("h' = ^re(h)",),
    "operands must have equal types, or be a number, or scal with key, vec or mat": (
        "h' = lin:key(x) ^+ h",
        "h' = ^lerp(lin:key(x), h, x)",
    ),
    "read(mat, key) is a val, S^T k; received mat and in": ("h' = ^read(lin:mat(x), x)",),
    "readt(mat, val) is a key, S v; received mat and key": ("u = ^readt(lin:mat(x), lin:key(x)); h' = h",),
    "outer(key, val) is a mat; received vec and vec": ("h' = lin(^outer(lin(x), lin(x)))",),
    "dot takes two key, or two val, and gives a scal; received key and vec": (
        "h' = h * ^dot(lin:key(x), h)",
    ),
    "the operand must be vec or key, the result is a scal; received mat": ("h' = h * ^hsum(lin:mat(x))",),
    "modrelu(z, b) takes a cvec and a real bias; received vec and vec": ("h' = re(^modrelu(h, h))",),
    "the operand must be in, vec, key, mem or seq; received scal": ("h' = h * ^l2norm(lin:scal(x))",),
    "the operand must be a real value; received cvec": ("h' = re(^diag(cis(h)))",),
    "`h'` is vec; received num": ("h' = ^0",),
    "`h'` is vec; received mat": ("h' = ^lin:mat(x)",),
    "`h'` is vec; received scal": ("h' = ^dot(h, h)",),
    "`out` is vec; received key": ("cell a { state k: key; k' = k; out ^k }",),
    "`until` is scal; received vec": ("depth 2 until(^h) { h' = h }",),
    "`attn` works on a whole sequence: declare seq states": ("h' = ^attn(h)",),
    "`top` works on a whole sequence: declare seq states": ("h' = h * ^top(lin:scal(h))",),
    "`part` is a number above 0, at most 1; received 0": ("h' = h * top(lin:scal(h), ^part=0)",),
    "`part` is a number above 0, at most 1; received 1.5": ("h' = h * top(lin:scal(h), ^part=1.5)",),
    "the operand must be scal, one number for each position; received seq": (
        "cell a { state h: seq = x; h' = h * ^top(h); out h' }",
    ),
    "attn takes a seq, and a scal that says which positions are seen; received seq and seq": (
        "cell a { state h: seq = x; h' = ^attn(h, h); out h' }",
    ),
    "tokey(val) is a key, where K = V; received mat": ("h' = lin(^tokey(lin:mat(x)))",),
    "toval(key) is a val, where K = V; received vec": ("h' = ^toval(h)",),
    "reflect takes two cvec, or two vec; received vec and cvec": ("h' = ^reflect(h, cis(h))",),
    "`posemb` works on a whole sequence: declare seq states": ("h' = h + ^posemb()",),
    "a state is declared once; 'h' is declared twice": ("cell a { state h: vec, ^h: key; h' = x; out h }",),
    "the state 'h' needs an equation `h' = ...`": ("cell a { state ^h: vec; out h }",),
    "a cell has one `out`; received 0": ("^cell a { state h: vec; h' = x }",),
    "a cell has one `out`; received 2": ("cell a { state h: vec; h' = x; out h; ^out x }",),
    'each name has one equation in a step; "h\'" has two': ("h' = x; ^h' = h",),
    "each name has one equation in a step; 'u' has two": ("u = x; ^u = h; h' = u",),
    "each name has one equation; 'u' has two": ("u = x; repeat 2 { ^u = h; h' = u }",),
    "'h' is a state: its new value is written `h' = ...`": ("^h = x; h' = h",),
    "'x' is a word of the language and cannot be defined": ("^x = h; h' = x",),
    "'fresh' is a word of the language and cannot be defined": ("^fresh = h; h' = fresh",),
    "equations of one step may not depend on each other in a circle: u -> v -> u": ("^u = v; v = u; h' = u",),
    "equations of one step may not depend on each other in a circle: h' -> h'": ("^h' = tanh(h')",),
    "a cell has no choice{...}: this text is a sketch": ("h' = choice{ ^tanh(h) | h }",),
    "a count is a whole number from 1 to 64; received 0": ("repeat ^0 { h' = h }",),
    "a count is a whole number from 1 to 64; received 1.5": ("depth ^1.5 { h' = h }",),
    "a block writes at least one state": ("^repeat 2 { u = h }; h' = h",),
    "only equations stand inside a block": (
        "repeat 2 { h' = h; ^out h }",
        "depth 2 until(param:scal()) { h' = h; ^out h }",
    ),
    "a cell unrolls to at most 20,000 values": ("repeat 64 { repeat 64 { ^repeat 64 { h' = h } } }",),
    "where one state is a seq all are; 'h' is vec": (
        "cell a { state ^h: vec, s: seq; h' = h; s' = s; out s }",
    ),
    "only a seq state begins as x; 'h' is vec": ("cell a { state ^h: vec = x; h' = h; out h }",),
    "only a tree cell, as in `cell t(l, r)`, has a `leaf` block": ("^leaf { h' = x }; h' = h",),
    "the children of a tree cell have distinct names; l repeats": (
        "cell a(^l, l) { state h: vec; leaf { h' = x }; h' = l.h; out h' }",
    ),
    "a tree cell has one `leaf { ... }` block; received 0": (
        "^cell a(l, r) { state h: vec; h' = l.h; out h' }",
    ),
    "a tree cell reads its children's states: write l.h": (
        "cell a(l, r) { state h: vec; leaf { h' = x }; h' = ^h; out h' }",
    ),
    "'l' is a child: name one of its states, as in l.h": (
        "cell a(l, r) { state h: vec; leaf { h' = x }; h' = ^l; out h' }",
    ),
    "'l' names both a child and a state": ("cell a(l) { state ^l: vec; leaf { l' = x }; l' = l.l; out l' }",),
    "a leaf has no children": ("cell a(l, r) { state h: vec; leaf { h' = ^l.h }; h' = l.h; out h' }",),
    "`out` stands outside the leaf block": (
        "cell a(l, r) { state h: vec; leaf { h' = x; ^out h' }; h' = l.h; out h' }",
    ),
    "`sum` is over the children of a cell declared `cell t(*k)`, and is not nested": (
        "cell a(l, r) { state h: vec; leaf { h' = x }; h' = ^sum(l.h); out h' }",
        "cell a(*k) { state h: vec; leaf { h' = x }; h' = sum(^sum(k.h)); out h' }",
        "h' = ^sum(h)",
    ),
    "`k` stands for any number of children: use it inside sum(...)": (
        "cell a(*k) { state h: vec; leaf { h' = x }; h' = ^k.h; out h' }",
    ),
    "a `sum` holds at most 5,000 values, square(a) and silu(a) written as products": (
        f"cell a(*k) {{ state h: vec; leaf {{ h' = x }}; h' = ^sum({'silu(' * 30}k.h{')' * 30}); out h' }}",
    ),
    "`sum` needs a child inside, as in sum(k.h)": (
        "cell a(*k) { state h: vec; leaf { h' = x }; h' = ^sum(x); out h' }",
    ),
    "a leaf has no children, and no blocks": (
        "cell a(l, r) { state h: vec; leaf { ^repeat 2 { h' = lin(x, h) } }; h' = l.h; out h' }",
    ),
    "in a tree cell a block begins with a state's initial value, which is a number; 'h' begins as -inf": (
        "cell a(l, r) { state h: vec = -inf; leaf { h' = x }; ^repeat 2 { h' = lin(l.h, h) }; out h' }",
    ),
    "in a tree cell a block begins with a state's initial value, which is a number; 'h' begins as learned": (
        "cell a(l, r) { state h: vec = learned; leaf { h' = x }; ^depth 2 { h' = lin(l.h, h) }; out h' }",
        "cell a(l, r) { state h: vec = learned; leaf { h' = x }; ^depth 2 until(hsum(h)) { h' = l.h }; out h' }",
    ),
    "`shift` looks back in time, and a tree cell has no steps": (
        "cell a(l, r) { state h: vec; leaf { h' = x }; h' = ^shift(l.h); out h' }",
    ),
    "`conv` looks back in time, and a tree cell has no steps": (
        "cell a(l, r) { state h: vec; leaf { h' = ^conv(x) }; h' = l.h; out h' }",
    ),
    "`shift` looks back in time, but its operand changes within a step, inside `depth n until(...)`": (
        "depth 2 until(param:scal()) { h' = ^shift(h) }",
        "depth 2 until(param:scal()) { u = tanh(lin(x, h)); h' = lin(x) * ^shift(2 * u) + h }",
    ),
    "`conv` looks back in time, but its operand changes within a step, inside `depth n until(...)`": (
        "depth 2 until(hsum(^conv(h))) { h' = h }",
    ),
    "a cell has one `depth n until(...)`, outside other blocks": (
        "repeat 2 { ^depth 2 until(param:scal()) { h' = h } }",
    ),
}

NAMES: dict[str, tuple[str, ...]] = {
    "unknown operation 'tanhh'; did you mean 'tanh'?": ("h' = ^tanhh(x)",),
    "unknown operation 'quux'": ("h' = ^quux(x)",),
    "unknown type 'vek'; the types are vec, val, key, scal, mat, cvec, cmat, seq, mem(n); did you mean 'vec'?": (
        "cell a { state h: ^vek; h' = x; out h }",
        "h' = lin:^vek(x)",
    ),
    "`lin` has no option 'bais'; its options are share, fixed, init, bias, blocks, rank, transpose; "
    "did you mean 'bias'?": ("h' = lin(x, ^bais=no)",),
    "`tanh` has no option 'bias'; it has none": ("h' = tanh(x, ^bias=no)",),
    "unknown name 'hh'; did you mean": ("h' = ^hh",),
    "unknown name 'c'": ("h' = ^c + h", "repeat 2 { c = x; h' = h }; u = ^c"),
    "h_' is the new value of a state, but no state 'h_' is declared; did you mean 'h'?": (
        "h' = h; ^h_' = x",
        "repeat 2 { repeat 2 { ^h_' = x }; h' = h }",
        "depth 2 until(param:scal()) { ^h_' = x; h' = h }",
    ),
    "unknown child 'k': its children are l, r": (
        "cell a(l, r) { state h: vec; leaf { h' = x }; h' = ^k.h; out h' }",
    ),
    "unknown child 'h': it has none": ("h' = ^h.c",),
    "unknown state 'c'": ("cell a(l, r) { state h: vec; leaf { h' = x }; h' = ^l.c; out h' }",),
}
