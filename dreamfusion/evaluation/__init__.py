"""How good a finished object is: does a CLIP that did not guide it find its caption among others?"""
