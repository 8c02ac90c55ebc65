"""Fashion-MNIST, with the method of distillation searched beside its own parameters."""

from dataclasses import replace

from search_spaces.digits_methods import METHODS
from search_spaces.fashion_mnist import SPACE as FASHION_MNIST

SPACE = replace(FASHION_MNIST, distillation=METHODS)
