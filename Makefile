# Two commands: `make demo` runs the main job on data that it makes itself, `make test` runs the tests.
# Both set up what they need first, once. PYTHON chooses the interpreter to start from.
PYTHON ?= python3
STAMP := .setup/interpreter
RUN = $$(cat $(STAMP))

.PHONY: demo test lint setup
setup: $(STAMP)

# A stamp whose interpreter is gone is no set-up.
ifeq ($(shell test -x "$$(cat $(STAMP) 2>/dev/null)" || echo missing),missing)
$(shell rm -f $(STAMP))
endif

$(STAMP): setup.py pyproject.toml $(wildcard requirements/* csrc/* csrc/*/*)
	$(PYTHON) requirements/install.py --stamp $@

demo: $(STAMP)
	$(RUN) -m panoptic_segformer.cli quickstart --output output/demo

test: $(STAMP)
	$(RUN) -m pytest -n 2

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$$(dirname $(RUN))/clang-format --dry-run -Werror $(wildcard csrc/*.* csrc/*/*.*)
