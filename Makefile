# `make demo` runs the main job on data that it makes itself, `make test` runs the tests, `make compare` puts the demo's
# model beside five others, `make chaos` breaks trainings on purpose and counts what is lost. All set up what they need
# first, once. PYTHON chooses the interpreter to start from.
PYTHON ?= python3
STAMP := .setup/interpreter
RUN = $$(cat $(STAMP))

# What `make compare` trains.
COMPARED := panoptic_segformer panoptic_fcn maskformer detr_panoptic panoptic_fpn panoptic_deeplab
DEMO_WEIGHTS := output/demo/training/model_final.pth

.PHONY: demo compare chaos test lint setup
setup: $(STAMP)

# A stamp whose interpreter is gone is no set-up.
ifeq ($(shell test -x "$$(cat $(STAMP) 2>/dev/null)" || echo missing),missing)
$(shell rm -f $(STAMP))
endif

$(STAMP): setup.py pyproject.toml $(wildcard requirements/* requirements/*/* csrc/* csrc/*/*)
	$(PYTHON) requirements/install.py --stamp $@

demo: $(STAMP)
	$(RUN) -m panoptic_segformer.cli quickstart --output output/demo

compare: $(STAMP) $(DEMO_WEIGHTS)
	$(RUN) benchmarks/equal_budget.py --configs $(COMPARED:%=configs/synthetic/%_lite0.yaml) \
		--iterations 120 --eval-period 120 --output output/compare/training
	$(RUN) -m panoptic_segformer.cli compare configs/comparisons/synthetic.yaml --output output/compare

$(DEMO_WEIGHTS):
	$(MAKE) demo

chaos: $(STAMP)
	$(RUN) benchmarks/chaos

test: $(STAMP)
	$(RUN) -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$$(dirname $(RUN))/clang-format --dry-run -Werror $(wildcard csrc/*.* csrc/*/*.*)
