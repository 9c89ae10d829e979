"""The ten charts that matter first, of the some 150 that a run writes: TensorBoard's tab "Custom Scalars"."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.callbacks.reporting import tensorboards

CHARTS: dict[str, dict[str, list[str]]] = {
    "Best-of-N": {
        "overall, by method": ["^best_of_n_methods/overall/"],
        "by benchmark": ["^best_of_n/(?!overall$|all_questions$)"],
    },
    "VisualProcessBench": {
        "F1 of steps": ["^process_bench/(macro|correct|wrong)_f1$"],
        "macro F1, by source": ["^process_bench_sources/"],
        "first wrong step": ["^process_bench/first_wrong_(exact|within_one)$"],
    },
    "Validation": {
        "F1 of steps": ["^validation/(macro|correct|wrong)_f1$"],
        "AUROC and calibration": ["^(validation|process_bench)/(auroc|expected_calibration_error)$"],
    },
    "Training": {
        "loss": ["^(train|validation)/loss$"],
        "gradient norm": ["^train/gradient_norm$"],
        "tokens per second": ["^throughput/tokens_per_second$"],
    },
}
"""By group and title the patterns of the tags that share a chart."""


class ChartLayout(Callback):
    """Tells TensorBoard, when a run starts, which scalars to draw together under "Custom Scalars": :data:`CHARTS`."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout."""
        if trainer.is_global_zero:
            layout = {
                group: {title: ["Multiline", patterns] for title, patterns in charts.items()}
                for group, charts in CHARTS.items()
            }
            for board in tensorboards(trainer):
                board.add_custom_scalars(layout)
