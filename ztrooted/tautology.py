"""Conditions that can't be false: what a permit that permits everything may hide behind.

Found without asking the library: constants, comparisons that the range of a number decides, and whatever is true for every
assignment of its parts (``a || !a``). What this misses, the probe in ``ztrooted.policy`` is there for.
"""

from collections.abc import Iterable
from itertools import product

from cedarpy import pst

from ztrooted.cedar_schema import ACTIONS, PATHS, RANGES

MAX_ATOMS = 10  # every assignment is tried: a thousand of them

# True and False, an expression that may be either, or ("not", a), ("and", a, b), ("or", a, b).
Formula = bool | pst.Expr | tuple[object, ...]

_FLIPPED = {
    "less": ("right", True),
    "greater": ("left", True),
    "less_eq": ("left", False),
    "greater_eq": ("right", False),
}


def unconditional(policy: pst.Template) -> bool:
    """Whether a policy applies to every request: no part of its scope and none of its conditions can exclude one."""
    return (
        _any(policy.principal, "Orchestrator")
        and _any(policy.resource, "Executor")
        and _any_action(policy.action)
        and all(clause_always(clause) for clause in policy.clauses)
    )


def clause_always(clause: pst.Clause) -> bool:
    """Whether a ``when`` can't be false, or an ``unless`` can't be true."""
    formula = _formula(clause.expr)
    return _always(("not", formula) if isinstance(clause, pst.Unless) else formula)


def _any(scope: pst.PrincipalOrResourceConstraint, kind: str) -> bool:
    return isinstance(scope, pst.ScopeAny) or (isinstance(scope, pst.ScopeIs) and str(scope.entity_type) == kind)


def _any_action(scope: pst.ActionConstraint) -> bool:
    if isinstance(scope, pst.ActionIn):
        return {one.id for one in scope.entities} >= set(ACTIONS)
    return isinstance(scope, pst.ScopeAny)


def _always(formula: Formula) -> bool:
    atoms = sorted(set(_atoms(formula)), key=repr)
    if len(atoms) > MAX_ATOMS:
        return False
    assignments = product((False, True), repeat=len(atoms))
    return all(_value(formula, dict(zip(atoms, values, strict=True))) for values in assignments)


def _atoms(formula: object) -> Iterable[pst.Expr]:
    if isinstance(formula, tuple):
        for part in formula[1:]:
            yield from _atoms(part)
    elif not isinstance(formula, bool):
        yield formula  # type: ignore[misc]


def _value(formula: object, values: dict[pst.Expr, bool]) -> bool:
    match formula:
        case bool():
            return formula
        case ("not", one):
            return not _value(one, values)
        case ("and", one, other):
            return _value(one, values) and _value(other, values)
        case ("or", one, other):
            return _value(one, values) or _value(other, values)
        case _:
            return values[formula]  # type: ignore[index]


def _formula(expr: pst.Expr) -> Formula:
    match expr:
        case pst.BoolLit(value):
            return value
        case pst.UnaryOp("not", arg):
            return ("not", _formula(arg))
        case pst.BinaryOp("and" | "or" as op, left, right):
            return (op, _formula(left), _formula(right))
        case pst.IfThenElse(cond, then, other):
            when = _formula(cond)
            return ("or", ("and", when, _formula(then)), ("and", ("not", when), _formula(other)))
        case pst.BinaryOp("eq", left, right):
            return _equal(left, right)
        case pst.BinaryOp("not_eq", left, right):
            return ("not", _equal(left, right))
        case pst.BinaryOp(op, left, right) if op in _FLIPPED:
            first, negated = _FLIPPED[op]
            ordered = _at_most(left, right) if first == "left" else _at_most(right, left)
            return ("not", ordered) if negated else ordered
        case pst.Like(_, pattern) if pattern and all(isinstance(one, pst.Wildcard) for one in pattern):
            return True
        case pst.HasAttr(base, attrs) if ".".join((path_of(base), *attrs)) in _REQUIRED:
            return True
        case pst.Is(pst.Var("principal" | "resource" as name), kind, None):
            return str(kind) == {"principal": "Orchestrator", "resource": "Executor"}[name]
        case _:
            return expr


def _equal(left: pst.Expr, right: pst.Expr) -> Formula:
    if left == right:
        return True
    literals = (pst.BoolLit, pst.LongLit, pst.StringLit, pst.EntityLit)
    if isinstance(left, literals) and isinstance(right, literals):
        return False
    for one, other in ((left, right), (right, left)):
        if isinstance(one, pst.BoolLit):
            return _formula(other) if one.value else ("not", _formula(other))
    (least, most), (other_least, other_most) = _range(left), _range(right)
    if most < other_least or other_most < least:
        return False
    first, second = sorted((left, right), key=repr)
    return pst.BinaryOp("eq", first, second)


def _at_most(left: pst.Expr, right: pst.Expr) -> Formula:
    """``left <= right``."""
    (least, most), (other_least, other_most) = _range(left), _range(right)
    if left == right or most <= other_least:
        return True
    if least > other_most:
        return False
    return pst.BinaryOp("less_eq", left, right)


def _range(expr: pst.Expr) -> tuple[float, float]:
    if isinstance(expr, pst.LongLit):
        return expr.value, expr.value
    return RANGES.get(path_of(expr), (float("-inf"), float("inf")))


def path_of(expr: pst.Expr) -> str:
    """``context.time.hour`` for an expression that is such a path; "" for any other."""
    names: list[str] = []
    while isinstance(expr, pst.GetAttr):
        names.append(expr.attr)
        expr = expr.base
    return ".".join([expr.name, *reversed(names)]) if isinstance(expr, pst.Var) else ""


# Attributes that every request has.
_OPTIONAL = ("context.parent", "context.user", "context.limits")
_REQUIRED = frozenset(path for path in PATHS if not path.startswith(_OPTIONAL))
