"""The public names of each package, pinned: a change here is a change for users and wants a line in CHANGELOG.md."""

from __future__ import annotations

import importlib

import pytest
from source_tree import ROOT, packages, public_names

PUBLIC: dict[str, str] = {
    "grammar": """
        Analysis CMAT CVEC Call CanonicalWeight Cell CellBuildError CellSyntaxError CellTree
        CellTypeError Component DIGEST_VERSION Dependence Depth Draws EqualRows Evaluation Expr FINGERPRINT_VERSION
        GRAPH_LEAVES Genotype GrammarError Graph HALT IN ImportFormatError KEY KEYWORDS KNOWN_MATRICES
        LINTS Labelling Leaf Let Lint LocatedError MAT NAMED NUM Node OPS OPS_VERSION Op Out Poly
        RENDERINGS Ranges Region Repeat SCAL SEQ SHAPES Sizes Sketch Span State Statement Type
        UnknownNameError VEC Value WEIGHTS Weight WeightSpec X analyse buffer_nodes call canonical_arrays
        canonical_weights check choice choice_weights elementwise equal_rows evaluate evaluate_stack
        fingerprint from_darts from_nasbench_nlp init_weights join known_matrix label lint make_cell
        mem_size
        num one_newline parse parse_sketch ref register register_rendering show_expr show_number show_state
        show_statement simplify suggest to_darts to_nasbench_nlp weight_shapes written_arrays zoo
        zoo_doc zoo_names zoo_text
    """,
    "nas": """
        Cell CellModule GrammarError NasError Run Searcher Sketch Space SpaceError Stack Task
        analyse build export from_darts from_nasbench_nlp from_torch load_space load_task open_run
        parse search zoo zoo_names
    """,
    "nas.backends": """
        Backend FlexibleRunner FlexibleTreeRunner NewtonCount NewtonRunner RENDERINGS Runner Steps TreeRunner
        adamw_ backend_names can_step candidates_runner choose fallbacks linear_cross_entropy merged
        register_backend register_rendering runner tree_runner
    """,
    "nas.backends.c": "",
    "nas.backends.newton": "",
    "nas.backends.triton": "",
    "nas.bench": """
        BASELINES BenchSize Build CACHED_AIM COLD_AIM Outcome Plan Row SIZES bench builds_of clock
        excess machine_facts outcomes over_limit products_of read_sizes transcendentals
    """,
    "nas.campaign": """
        Cleaned Contender Event Retraining Run SearchConfig TrialRecord clean open_run resume search start
    """,
    "nas.cli": """
        app main
    """,
    "nas.exporters": """
        ExportMismatchError Exported FORMATS check_folder export ranking read_formats value_names
    """,
    "nas.ir": """
        Adjoint Array Builder Chain ChildGradient Circle Contraction DEPTH_ONLY DERIVATIVES EXPANSIONS Factors Form
        IR_OPS Instr Linearised Map Matrices NORMAL_RULES NO_DERIVATIVE Node Normal OWN PRIMITIVES Place Product
        Program ROWS RULES Read Recurrence Region Replay Rule STACK STAGES Scan Schedule Slot Sweep Use
        WeightGradient adjoint adjoint_cell adjoint_tree checked_analysis checked_recurrences compile_program
        describe expanded_by_users is_plain joins linearised matrices normal
        normal_cell normal_tree number_in passes recurrences refuted register_expansion same_axes schedule shape_in
        show show_after taps tree_parts verify verify_normal width width_of with_scans
    """,
    "nas.nn": """
        CellModule Ensemble Stack State TreeModule build detach_state from_torch
    """,
    "nas.reports": """
        Estimate FinalTest UNITS Verdict objective_text recipe_text report_html seconds_text verdict write_report
        write_study
    """,
    "nas.searchers": """
        MEASURED METRICS OBJECTIVES Observation Proposal Searcher SpaceLike crowding front fronts
        make_searcher searcher_names settled_options
    """,
    "nas.searchers.lab": """
        Answer Answerer Comparison FEATURES Interval Pool PoolSpace Surrogate Trace all_or_nothing benchmark_pool
        compare interval replay table_answers trials_pool
    """,
    "nas.serving": """
        Answerer Application BusyError Desk Limits open_api serve
    """,
    "nas.supernet": """
        Architecture Cost Scored Supernet SupernetOptions SupernetResult check_supernet train_supernet train_trial
    """,
    "nas.tasks": """
        Batch Recipe Split Task TaskRow absolute_name check_fields load_task task_names task_table
    """,
    "nas.training": """
        Recipe TrialResult TrialSpec device_of evaluate learning_rate load_trained match_width measure_latency
        static_metrics task_of train trained_vocabulary zero_cost_columns zero_cost_key zero_cost_names
    """,
    "predictors": """
        Benchmark MODELS Neighbour Prediction Predictor PredictorError PredictorFileError TABLE auc cell_statistics
        classes_of coverage cross_validation encode
        encoding_key encoding_names fit fit_rows flow_features kendall_tau load model_names model_rows
        probe_features probe_names
        Trial read_benchmark read_trials shipped shipped_scores shipped_tasks similar spearman statistic_names validate
    """,
    "search_spaces": """
        Choice Chooser GrammarSpace Limits Motif NoCellError NotAMemberError Operator Relaxed SketchSpace Space
        SpaceError SpaceFileError UnknownSpaceError Variation WAYS load_space read_space space_names space_text unroll
    """,
}


def test_every_package_is_pinned() -> None:
    assert sorted(PUBLIC) == sorted(packages())


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_pinned(package: str) -> None:
    assert public_names(package) == sorted(PUBLIC[package].split())


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_resolves(package: str) -> None:
    module = importlib.import_module(package)
    for name in PUBLIC[package].split():
        assert getattr(module, name) is not None
        assert name in dir(module)


@pytest.mark.parametrize("package", PUBLIC)
def test_lazy_faces_list_what_they_show_to_type_checkers(package: str) -> None:
    declared = getattr(importlib.import_module(package), "__all__", None)
    assert declared is None or sorted(declared) == public_names(package)


@pytest.mark.parametrize("package", PUBLIC)
def test_no_lazy_name_is_that_of_a_module(package: str) -> None:
    # Importing the module would put it where the name belongs, whoever imports it, and the face would show the module.
    lazy = set(getattr(importlib.import_module(package), "__all__", ()))
    modules = {path.stem for path in (ROOT / package.replace(".", "/")).glob("*.py")}
    assert not lazy & modules


def test_unknown_name_is_an_attribute_error() -> None:
    import nas

    with pytest.raises(AttributeError, match="module 'nas' has no attribute 'lstm'"):
        _ = nas.lstm
