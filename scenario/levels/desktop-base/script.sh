adduser --disabled-password --gecos Student student
