import gc

gc.disable()  # until all is loaded: a fifth of that time would go to looking for garbage where there is none
