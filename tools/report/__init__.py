"""`visualprm-report`: the results of several tests in the tables and figures of the paper."""
