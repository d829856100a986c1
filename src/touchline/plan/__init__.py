"""Everything resolved, with hashes, before anything runs."""

from touchline.plan.build import PlanInputs, build_plan
from touchline.plan.drift import changed_runs, revise
from touchline.plan.files import plan_from_json, plan_to_json
from touchline.plan.table import runs_plan_markdown

__all__ = ["PlanInputs", "build_plan", "changed_runs", "plan_from_json", "plan_to_json", "revise", "runs_plan_markdown"]
