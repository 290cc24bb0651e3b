from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from campaign_fakes import *  # noqa: F403

