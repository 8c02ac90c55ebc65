"""Published settings in this project's terms, and the conversion of other projects' weights into alpha.

The loss here is alpha · CE + (1 - alpha) · T² · KL, where alpha weighs the **hard labels**. In other projects alpha
weighs the soft targets, or each term has a weight of its own. Imports nothing: the command line names the recipes.
"""

from __future__ import annotations

from typing import NamedTuple


class ConvertedLoss(NamedTuple):
    """Another project's loss in this project's terms: ``factor`` · (``alpha`` · CE + (1 - ``alpha``) · T² · KL).

    Attributes:
        temperature: Softening T, unitless.
        alpha: Weight of the hard labels, in [0, 1].
        factor: The remaining factor. A learning rate of SGD must be multiplied by it, and the weight decay left as it
            is; AdamW, which trains by default, takes the same steps whatever the factor.
    """

    temperature: float
    alpha: float
    factor: float


def convert_weights(*, hard: float, soft: float, temperature: float, squared: bool = True) -> ConvertedLoss:
    r"""Convert two weights that need not sum to one into temperature, alpha and a factor.

    .. math::
        w_h \, \mathrm{CE} + w_s \, T^2 \, \mathrm{KL}
        = (w_h + w_s) \left( \alpha \, \mathrm{CE} + (1 - \alpha) \, T^2 \, \mathrm{KL} \right),
        \quad \alpha = \frac{w_h}{w_h + w_s}

    Soft cross-entropy in place of KL has the same gradient. For a KL that is averaged over the C classes as well as
    over the batch (``reduction="mean"``, and the published code of DeiT), pass ``soft`` / C.

    Args:
        hard: Weight of the cross-entropy with the true labels, at least 0.
        soft: Weight of the divergence from the teacher, at least 0; one of the two is above 0.
        temperature: Softening T > 0 of both sides, unitless.
        squared: Whether the divergence is multiplied by T² beside its weight.

    Raises:
        ValueError: If a weight is negative, both are 0, or ``temperature`` is not positive.
    """
    if hard < 0 or soft < 0 or hard + soft == 0:
        raise ValueError(f"weights must be at least 0, and not both 0, but got {hard=} and {soft=}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but got {temperature=}.")
    soft = soft if squared else soft / temperature**2
    return ConvertedLoss(temperature, alpha=hard / (hard + soft), factor=hard + soft)


def _recipe(*, hard: float, soft: float, temperature: float) -> dict[str, float]:
    """Return the parameters of a trial for another project's weights."""
    ours = convert_weights(hard=hard, soft=soft, temperature=temperature)
    return {"temperature": ours.temperature, "alpha": ours.alpha}


RECIPES: dict[str, dict[str, float]] = {
    # RepDistiller, scripts/run_cifar_distill.sh: --distill kd -r 0.1 -a 0.9, and --kd_T 4 by default; its loss is
    # gamma (-r) · CE + alpha (-a) · T² · KL. mdistiller, engine/cfg.py: the same, KD.LOSS.CE_WEIGHT, KD.LOSS.KD_WEIGHT
    # and KD.TEMPERATURE.
    "repdistiller": _recipe(hard=0.1, soft=0.9, temperature=4.0),
    # DistilBERT, Transformers' research project "distillation": --alpha_ce 5.0 (T² · KL) --alpha_mlm 2.0 (labels),
    # --temperature 2.0 by default. Its third term, --alpha_cos 1.0, compares hidden states and is left out; the factor
    # 7 goes into the learning rate.
    "distilbert": _recipe(hard=2.0, soft=5.0, temperature=2.0),
    # keras.io/examples/vision/knowledge_distillation: alpha=0.1, temperature=10; alpha weighs the labels there too.
    # (Its first version lacked T², which is ours with alpha = 0.917.)
    "keras": _recipe(hard=0.1, soft=1 - 0.1, temperature=10.0),
    # torchdistill, configs/official/ilsvrc2012/yoshitomo-matsubara/rrpr2020/kd-resnet18_from_resnet34.yaml: KDLoss with
    # temperature 1.0, alpha 0.5; alpha weighs the labels there too.
    "torchdistill": _recipe(hard=0.5, soft=1 - 0.5, temperature=1.0),
    # DeiT, Touvron et al. (2021), arXiv:2012.12877, eq. 2 and section 6 ("Initialization and hyper-parameters"): soft
    # distillation with tau = 3.0 and lambda = 0.1, the weight of the *soft* targets. What DeiT is known for, the
    # teacher's decision as a second label behind a token of its own, has no equivalent here.
    "deit": _recipe(hard=1 - 0.1, soft=0.1, temperature=3.0),
    # Hinton et al. (2015), arXiv:1503.02531, section 4.1: T = 2 was best, with "a relative weight of 0.5" on the hard
    # labels, taken as half of the soft targets' weight (section 2 wants it "considerably lower"). Section 3, on MNIST,
    # says T = 20 and no weight.
    "hinton": _recipe(hard=0.5, soft=1.0, temperature=2.0),
}
"""Published settings by name; ``alpha`` is the weight of the hard labels."""

DEFAULT_RECIPES = ("repdistiller", "distilbert", "keras")
"""The recipes that a study tries first by default: three different temperatures."""
