"""The report page against a golden file; the figures are made up, so that each is told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitcompress.measure.markdown import write_markdown

GOLDEN = Path(__file__).parents[1] / "golden" / "report.md"


def layer(name: str, op: str, bits: int, state: str, reason: str, number: int) -> dict[str, Any]:
    """A row of the table."""
    return {
        "name": name, "op": op, "weight_bits": bits, "act_bits": bits, "state": state,
        "reason": reason, "sqnr_db": None if state == "float" else 10.0 + number,
        "stored_bytes": 1000 * number,
    }  # fmt: skip


def made_up() -> dict[str, Any]:
    """A report with one of everything."""
    return {
        "schema_version": 1, "recipe": "default", "bits_asked": 4, "quick": True, "seed": 7,
        "model": {"class_name": "somewhere.nets:Enlarger"}, "data": "12 pictures of photos",
        "size": {"float_bytes": 1234567, "packed_bytes": 200000, "ratio": 6.172835,
                 "paper_ratio": 7.25, "paper_ops_ratio": 7.5},
        "bits": {"weights_mean": 4.25, "activations_mean": 4.5},
        "capture": {"tier": "recorded", "coverage": 0.9125, "notes": ["one input size recorded"]},
        "states": {"packed": 3, "simulated": 1, "float": 1},
        "training": {"method": "finetune", "steps": 60},
        "quality": {
            "Set5": {"count": 5, "bicubic_psnr_y": 31.1, "float_psnr_y": 38.25,
                     "packed_psnr_y": 38.125, "drop_db": 0.125, "float_ssim_y": 0.9611,
                     "packed_ssim_y": 0.9604, "fidelity_psnr_y": 45.5,
                     "skipped": [["broken.png", "cannot be read"]]},
            "small | ones": {"count": 2, "fidelity_psnr_y": 44.0, "skipped": []},
        },
        "speed": {"float_ms": 20.0, "packed_ms": 25.0, "ratio": 0.8, "threads": 2, "repeats": 3,
                  "input": [[1, 3, 64, 64]], "load": 1.25},
        "layers": [
            layer("head", "conv2d", 32, "float", "meets the picture", 1),
            layer("body.0", "linear", 4, "packed", "", 2),
            layer("body.0@matmul.0", "matmul", 4, "packed", "", 3),
            layer("body.1", "linear", 8, "packed", "bottleneck: kept at 8 bits", 4),
            layer("body.2", "conv2d", 4, "simulated", "scale per input channel", 5),
        ],
        "stages": [{"stage": "calibrate", "seconds": 30.0, "peak_rss_mb": 900.5},
                   {"stage": "train", "seconds": 180.0, "peak_rss_mb": 1900.0}],
        "parity": {"psnr_db": 88.25, "changed_share": 0.0001},
        "machine": {"processor": "A processor", "threads": 2, "native": "avx2"},
        "program": {"steps": 17, "native": 12, "refusals": [], "reasons": {},
                    "notes": {"codes kept between layers": 5,
                              "attention not gathered: an operand has gaps in memory": 1}},
        "versions": {"python": "3.11", "torch": "2.13"}, "notes": ["bn1 not folded: shared"],
    }  # fmt: skip


def test_the_page_is_as_agreed() -> None:
    """To change the page on purpose: python tests/measure/test_markdown.py"""
    assert write_markdown(made_up()) == GOLDEN.read_text(encoding="utf-8")


def test_a_model_without_a_program_says_why() -> None:
    none = {"steps": 0, "native": 0, "notes": {}, "refusals": ["random numbers are drawn"]}
    page = write_markdown({**made_up(), "program": {**none, "reasons": {}}})
    assert "runs as it is written, step by step: random numbers are drawn." in page
    assert "How it runs" not in write_markdown({**made_up(), "program": {}})


def test_times_of_a_busy_machine_are_called_rough() -> None:
    speed = {**made_up()["speed"], "rough": "the machine had a load of 9.0 on 2 processor(s)"}
    page = write_markdown({**made_up(), "speed": speed})
    assert "**These figures are rough**: the machine had a load of 9.0 on 2 processor(s)." in page


if __name__ == "__main__":
    GOLDEN.write_text(write_markdown(made_up()), encoding="utf-8")
