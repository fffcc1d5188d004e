# Made by scripts/make_stub.py from the table in __init__.py: run it, do not edit.

from loratools import errors as errors
from loratools.adapter import Adapter as Adapter
from loratools.describing.description import Inspection as Inspection
from loratools.describing.inspect import inspect as inspect
from loratools.describing.rows import Inspections as Inspections
from loratools.errors import AnswerError as AnswerError
from loratools.errors import ArgumentError as ArgumentError
from loratools.errors import ConflictError as ConflictError
from loratools.errors import FormatError as FormatError
from loratools.errors import HubError as HubError
from loratools.errors import LoratoolsError as LoratoolsError
from loratools.errors import MatchError as MatchError
from loratools.errors import NetworkError as NetworkError
from loratools.errors import NonFiniteError as NonFiniteError
from loratools.errors import NotAnAdapterError as NotAnAdapterError
from loratools.errors import OptionError as OptionError
from loratools.errors import OutputError as OutputError
from loratools.errors import ShapeMismatchError as ShapeMismatchError
from loratools.errors import StorageError as StorageError
from loratools.errors import TargetError as TargetError
from loratools.errors import UnansweredError as UnansweredError
from loratools.errors import UnsupportedError as UnsupportedError
from loratools.extracting.plan import ExtractOptions as ExtractOptions
from loratools.extracting.report import ExtractReport as ExtractReport
from loratools.extracting.svd_extract import svd_extract as svd_extract
from loratools.extracting.writing import ExtractRun as ExtractRun
from loratools.files.in_memory import adapter_from_tensors as adapter_from_tensors
from loratools.files.opening import open_adapter as open_adapter
from loratools.lowrank.ranks import RankRule as RankRule
from loratools.merging.execute import WriteOptions as WriteOptions
from loratools.merging.merge import merge as merge
from loratools.merging.plan import MergeOptions as MergeOptions
from loratools.merging.report import MergeReport as MergeReport
from loratools.methods import MethodOptions as MethodOptions
from loratools.publishing.pull import Pulled as Pulled
from loratools.publishing.pull import pull as pull
from loratools.publishing.push import push as push
from loratools.publishing.push_options import PushOptions as PushOptions
from loratools.publishing.push_report import PushReport as PushReport
from loratools.reshaping.combine import CombineReport as CombineReport
from loratools.reshaping.combine import combine as combine
from loratools.reshaping.combined import Combination as Combination
from loratools.reshaping.convert import ConvertReport as ConvertReport
from loratools.reshaping.convert import convert as convert
from loratools.reshaping.rescale import RescaleReport as RescaleReport
from loratools.reshaping.rescale import rescale as rescale
from loratools.reshaping.rescaled import Rescaling as Rescaling
from loratools.reshaping.resize import ResizeReport as ResizeReport
from loratools.reshaping.resize import resize as resize
from loratools.swapping.report import SwapReport as SwapReport
from loratools.swapping.swap import swap as swap
from loratools.target import Target as Target
from loratools.version import __version__ as __version__

__all__ = [
    "Adapter",
    "AnswerError",
    "ArgumentError",
    "Combination",
    "CombineReport",
    "ConflictError",
    "ConvertReport",
    "ExtractOptions",
    "ExtractReport",
    "ExtractRun",
    "FormatError",
    "HubError",
    "Inspection",
    "Inspections",
    "LoratoolsError",
    "MatchError",
    "MergeOptions",
    "MergeReport",
    "MethodOptions",
    "NetworkError",
    "NonFiniteError",
    "NotAnAdapterError",
    "OptionError",
    "OutputError",
    "Pulled",
    "PushOptions",
    "PushReport",
    "RankRule",
    "RescaleReport",
    "Rescaling",
    "ResizeReport",
    "ShapeMismatchError",
    "StorageError",
    "SwapReport",
    "Target",
    "TargetError",
    "UnansweredError",
    "UnsupportedError",
    "WriteOptions",
    "adapter_from_tensors",
    "combine",
    "convert",
    "inspect",
    "merge",
    "open_adapter",
    "pull",
    "push",
    "rescale",
    "resize",
    "svd_extract",
    "swap",
]
