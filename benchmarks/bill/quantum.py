"""One task on one detector, from a repository to a repository, each step measured.

``python -m benchmarks.bill.quantum REPO TASK OUTPUT`` prints JSON; it is a process of its own so that imports
and memory are those of the task alone.  Nothing heavy is imported at the top.
"""

from __future__ import annotations

__all__ = ("BUTLER", "EXECUTOR", "IMPORTS", "INTERPRETER", "MAKE", "REST", "START", "measure")

import functools
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

from ..timing import Meter, time_subtasks, user_seconds

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef
    from lsst.pipe.base import PipelineTask

INTERPRETER, IMPORTS = "the interpreter", "imports"
BUTLER, START = "Butler", "quantum graph"
EXECUTOR, MAKE, REST = "the executor", "make the task", "the rest of the task"

_METHODS = {"source_selector": "select_sources", "psf_determiner": "determine_psf"}
"""What subtasks do whose method is not ``run``."""


def measure(root: str, label: str, inputs: str, output: str) -> dict[str, Any]:
    """Run the quantum of a task twice, each time with a Butler and a graph of its own.

    Parameters
    ----------
    root
        Folder of the repository.
    label
        Label of the task.
    inputs
        Comma-separated input collections.
    output
        Begin of the names of the output collections, which must be new.

    Returns
    -------
    runs
        By ``cold`` and ``warm``: ``seconds`` and ``peak_gb`` by step, ``megabytes`` of each output, and
        ``rows`` of each table.
    """
    runs = {}
    meter = Meter()
    meter.seconds[INTERPRETER] = user_seconds()
    for name in ("cold", "warm"):
        with meter.step(IMPORTS):
            pipeline = _import(label)
        outputs = _run(root, pipeline, inputs.split(","), f"{output}/{name}", meter)
        runs[name] = {"seconds": dict(meter.seconds), "peak_gb": dict(meter.peaks), **outputs}
        meter = Meter()
    return runs


def _import(label: str) -> Any:
    """Import what runs the task, and the task; return the pipeline of the task alone."""
    importlib.import_module("lsst.pipe.base.simple_pipeline_executor")
    importlib.import_module("lsst.daf.butler.direct_butler")
    from lsst.pipe.base import Pipeline

    from secondlight.cli.pipeline import PIPELINES

    pipeline = Pipeline.from_uri(f"{PIPELINES}sim/secondlight.yaml#{label}")
    return pipeline.to_graph()


def _run(root: str, pipeline: Any, inputs: list[str], output: str, meter: Meter) -> dict[str, Any]:
    """Run the quantum and return the sizes of its outputs."""
    from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
    from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor
    from lsst.pipe.base.taskFactory import TaskFactory

    class MeteredTaskFactory(TaskFactory):
        """Makes tasks that are measured."""

        def makeTask(self, *args: Any, **kwargs: Any) -> PipelineTask:
            with meter.step(MAKE):
                task = super().makeTask(*args, **kwargs)
            names = filter(functools.partial(_is_subtask, task), task.config.keys())
            time_subtasks(task, {name: _METHODS.get(name, "run") for name in names}, meter)
            task.runQuantum = meter.measured(REST, task.runQuantum)  # type: ignore[method-assign]
            return task

    with meter.step(BUTLER):
        butler = SimplePipelineExecutor.prep_butler(root, inputs, output)
    with meter.step(START):
        where = "instrument='SimCam' AND skymap='secondlight_rings'"
        executor = SimplePipelineExecutor.from_pipeline_graph(pipeline, butler=butler, where=where)
        graph = executor.predicted
        graph.pipeline_graph.register_dataset_types(butler)
        graph.write_configs(butler, compare_existing=False)
        graph.write_init_outputs(butler, skip_existing=False)
        graph.build_execution_quanta()
        (quantum_id,) = graph
        node = graph.quantum_only_xgraph.nodes[quantum_id]
    rows = _measure_storage(butler, meter)
    with meter.step(EXECUTOR):
        single = SingleQuantumExecutor(butler=butler, task_factory=MeteredTaskFactory())
        single.execute(node["pipeline_node"], node["quantum"], quantum_id)
    refs = [ref for refs in node["quantum"].outputs.values() for ref in refs]
    sizes = {ref.datasetType.name: butler.getURI(ref).size() / 1e6 for ref in refs if butler.stored(ref)}
    butler.close()
    return {"megabytes": sizes, "rows": rows}


def _is_subtask(task: PipelineTask, name: str) -> bool:
    """Tell whether a name of the configuration is that of a subtask, made already or to be made."""
    from lsst.pex.config import ConfigurableField, RegistryField

    return isinstance(task.config._fields[name], ConfigurableField | RegistryField)


def _measure_storage(butler: Butler, meter: Meter) -> dict[str, int]:
    """Measure whatever is read and written; the dict receives the lengths of written tables."""
    from astropy.table import Table

    get, put = butler.get, butler.put
    rows: dict[str, int] = {}

    def measured_get(ref: DatasetRef, *args: Any, **kwargs: Any) -> Any:
        with meter.step(f"read {ref.datasetType.name}"):
            return get(ref, *args, **kwargs)

    def measured_put(value: Any, ref: DatasetRef, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Table):
            rows[ref.datasetType.name] = len(value)
        with meter.step(f"write {ref.datasetType.name}"):
            return put(value, ref, *args, **kwargs)

    butler.get, butler.put = measured_get, measured_put  # type: ignore[method-assign,assignment]
    return rows


if __name__ == "__main__":
    json.dump(measure(*sys.argv[1:]), sys.stdout)
