"""Networks: an initializer of parameters, and a stable function of parameters and inputs."""

from ._cnn import cnn as cnn
from ._convolution import shifted_convolution as shifted_convolution
from ._encoder_decoder import encoder_decoder as encoder_decoder
from ._linear import linear as linear
from ._lstm import lstm as lstm
from ._mlp import mlp as mlp
from ._model import Model as Model
from ._norms import batch_norm as batch_norm
from ._norms import group_norm as group_norm
from ._norms import layer_norm as layer_norm
from ._resnet import resnet as resnet
from ._transformer import TransformerSize as TransformerSize
from ._transformer import transformer as transformer
from ._transformer import transformer_size as transformer_size
from ._vgg import vgg as vgg
from ._vit import vit as vit
from ._wide_resnet import wide_resnet as wide_resnet
