e1
ausersh P8p