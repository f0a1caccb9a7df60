"""Do rates per group and restarts help, how much, and with which defaults?"""
