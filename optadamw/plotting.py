"""The plots of training histories, under the name that users import."""

from optadamw.reports.plotting import curves as curves
from optadamw.reports.plotting import update_to_weight as update_to_weight
