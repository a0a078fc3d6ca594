"""Drawing boxes and masks in a notebook: `document` is the annotation, `autosave` its files, `widget` what is seen."""
